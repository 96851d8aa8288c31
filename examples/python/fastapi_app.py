"""A service with FastAPI: notes that are kept encrypted, for callers with tokens of Mini KMS.

    export KMS_STORE_URL=sqlite:kms.db KMS_MASTER_KEY_FILE=/etc/myapp/root.key
    python fastapi_app.py            # makes the key, a grant and a token for "writer", and shows the token
    uvicorn --loop uvloop fastapi_app:app

The store is opened when the application starts, so each worker of uvicorn or gunicorn has a service of its own.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mini-kms", "fastapi", "uvicorn", "uvloop"]
# ///

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import mini_kms
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from mini_kms import AsyncKms, AsyncSession, Config, Kms

KEY = "notes"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with await AsyncKms.open(Config.from_env()) as kms:
        app.state.kms = kms
        # A real application has a database here. It stores ciphertexts only.
        app.state.notes = {}
        yield


app = FastAPI(title="Notes", lifespan=lifespan)


@app.exception_handler(mini_kms.KmsError)
async def refuse(request: Request, error: mini_kms.KmsError) -> JSONResponse:
    """Responds with an error. Messages about the store and the root key are not for callers, and only logged here."""
    content = {"error": error.name}
    if isinstance(error, mini_kms.NotAuthenticated):
        return JSONResponse(content, 401, {"www-authenticate": "Bearer"})
    if isinstance(error, mini_kms.Denied):
        return JSONResponse(content, 403)
    if isinstance(error, mini_kms.NotFound):
        return JSONResponse(content, 404)
    if isinstance(error, mini_kms.InvalidInput | mini_kms.CryptoFault):
        return JSONResponse(content | {"message": error.message}, 400)
    if error.retryable:
        return JSONResponse(content, 503, {"retry-after": "1"})
    return JSONResponse(content, 500)


async def caller(request: Request, authorization: Annotated[str, Header()] = "") -> AsyncSession:
    """The session of the caller: the token says which principal it is, and grants say what it may do."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, headers={"www-authenticate": "Bearer"})
    kms: AsyncKms = request.app.state.kms
    address = request.client.host if request.client else None
    return await kms.authenticate(token, source_ip=address, request_id=request.headers.get("x-request-id"))


Caller = Annotated[AsyncSession, Depends(caller)]


@app.put("/notes/{name}", status_code=204)
async def write(name: str, request: Request, session: Caller) -> Response:
    sealed = await session.encrypt(KEY, await request.body(), context={"note": name})
    request.app.state.notes[name] = sealed.ciphertext
    return Response(status_code=204)


@app.get("/notes/{name}")
async def read(name: str, request: Request, session: Caller) -> Response:
    ciphertext = request.app.state.notes.get(name)
    if ciphertext is None:
        raise HTTPException(404)
    opened = await session.decrypt(ciphertext, context={"note": name})
    return Response(opened.plaintext, media_type="application/octet-stream")


@app.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    kms: AsyncKms = request.app.state.kms
    return {"root_key": (await kms.ready()).root_key}


def main() -> None:
    """Prepares the store."""
    with Kms.open(Config.from_env()) as kms:
        operator = kms.operator_session()
        operator.create_key(KEY, rotation_period_days=90)
        operator.put_grant("writer", KEY, ["encrypt", "decrypt"])
        print(operator.create_token("writer").token)


if __name__ == "__main__":
    main()
