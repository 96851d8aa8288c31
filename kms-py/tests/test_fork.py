"""Forks: inherited handles fail at once, new ones work, and nothing hangs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mini_kms import Kms
from support import ROOT_KEY, run

EXECUTE = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
WAIT = """
import os, time
def wait(child):
    # A child that hangs is killed, and fails the test.
    for _ in range(3000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    raise SystemExit("the child hangs")
"""


def test_inherited_handles_fail_at_once(url: str) -> None:
    source = """
        import asyncio, gc, io, os, sys
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32))
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        encryptor = alice.encrypt_stream("users")
        child = os.fork()
        if child == 0:
            operations = [
                lambda: alice.encrypt("users", b""),
                lambda: alice.encrypt("users", bytes(1_000_000)),
                lambda: alice.encrypt_batch([("users", b"")]),
                lambda: alice.get_key("users"),
                lambda: alice.verify_audit(),
                lambda: alice.encrypt_file("users", io.BytesIO(b"x"), io.BytesIO()),
                lambda: alice.with_request(),
                lambda: alice.with_idempotency_key("x"),
                lambda: encryptor.update(b"x"),
                lambda: encryptor.finish(),
                lambda: kms.session("bob"),
                lambda: kms.operator_session(),
                lambda: kms.authenticate("token"),
                lambda: kms.ready(),
                lambda: kms.close(),
            ]
            for number, operation in enumerate(operations):
                try:
                    operation()
                except mini_kms.UsedAfterFork as error:
                    assert error.code == 704
                else:
                    print("operation", number, "was done in the child")
            del alice, kms, encryptor
            gc.collect()
            # The child exits normally. It must not wait for threads of the parent, which it does not have.
            sys.exit(7)
        assert wait(child) == 7
        assert alice.encrypt("users", b"").version == 1
        kms.close()
    """
    assert run(WAIT + dedent(source), url) == ""


def test_a_child_cannot_open_a_store_while_the_parent_has_one_open(url: str, tmp_path: Path) -> None:
    source = """
        import os, sys
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(32))
        child = os.fork()
        if child == 0:
            for url in sys.argv[1:]:
                try:
                    mini_kms.Kms.open(url, root_key=bytes(32))
                except mini_kms.UsedAfterFork as error:
                    assert "fork" in str(error)
                else:
                    os._exit(1)
            os._exit(7)
        assert wait(child) == 7
        kms.close()
    """
    run(WAIT + dedent(source), url, f"sqlite:{tmp_path / 'other.db'}")


def test_children_work_if_no_store_is_open_at_the_fork(url: str) -> None:
    source = """
        import os, sys
        import mini_kms
        mini_kms.generate_root_key()
        children = []
        for number in range(4):
            child = os.fork()
            if child == 0:
                # While one process creates the store, others may get a retryable error.
                for _ in range(100):
                    try:
                        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32)))
                        break
                    except mini_kms.KmsError as error:
                        if not error.retryable:
                            raise
                        time.sleep(0.05)
                with kms:
                    alice = kms.session("alice", "admin")
                    alice.create_key(f"key {number}")
                    for _ in range(10):
                        alice.encrypt(f"key {number}", b"secret")
                os._exit(7)
            children.append(child)
        assert [wait(child) for child in children] == [7] * 4
    """
    run(WAIT + dedent(source), url)
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        assert len(alice.list_keys().items) == 4
        assert len(alice.list_audit(action="ENCRYPT").items) == 40
        assert alice.verify_audit().ok


@pytest.mark.parametrize("ack", ["durable", "queued"])
def test_forks_during_operations_lose_no_record(url: str, ack: str) -> None:
    source = """
        import os, sys, threading
        import mini_kms
        kms = mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32)), audit_ack=sys.argv[2])
        alice = kms.session("alice", "admin")
        alice.create_key("users")
        ended, counts = threading.Event(), []
        def work():
            count = 0
            while not ended.is_set():
                alice.encrypt("users", b"secret" * (count % 1000))
                count += 1
            counts.append(count)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    alice.encrypt("users", b"")
                except mini_kms.UsedAfterFork:
                    os._exit(7)
                os._exit(1)
            assert wait(child) == 7
        ended.set()
        for thread in threads:
            thread.join()
        kms.close()
        print(sum(counts))
    """
    done = int(run(WAIT + dedent(source), url, ack))
    assert done > 0
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        report = kms.session("alice", "admin").verify_audit()
        assert report.ok
        assert report.size >= done


def test_an_inherited_loop(url: str) -> None:
    source = """
        import asyncio, os, sys
        import mini_kms
        async def main():
            kms = await mini_kms.AsyncKms.open(sys.argv[1], root_key=bytes(32))
            alice = kms.session("alice", "admin")
            await alice.create_key("users")
            tasks = [asyncio.ensure_future(alice.encrypt("users", b"x")) for _ in range(100)]
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                for make in (lambda: alice.encrypt("users", b""), lambda: kms.close(), lambda: kms.ready()):
                    try:
                        make().send(None)
                    except mini_kms.UsedAfterFork:
                        continue
                    os._exit(1)
                os._exit(7)
            assert wait(child) == 7
            assert len(await asyncio.gather(*tasks)) == 100
            await kms.close()
        asyncio.run(main())
    """
    run(WAIT + dedent(source), url)


def test_a_child_that_stays_in_the_loop_of_its_parent(url: str) -> None:
    source = """
        import asyncio, os, sys
        import mini_kms
        async def main():
            kms = await mini_kms.AsyncKms.open(sys.argv[1], root_key=bytes(32))
            alice = kms.session("alice", "admin")
            await alice.create_key("users")
            loop = asyncio.get_running_loop()
            for _ in range(20):
                tasks = [asyncio.ensure_future(alice.encrypt("users", b"x")) for _ in range(20)]
                await asyncio.sleep(0)
                child = os.fork()
                if child == 0:
                    # The child watches the same descriptors, but must not take the results of its parent.
                    loop.call_later(0.1, os._exit, 7)
                    await loop.create_future()
                assert len(await asyncio.gather(*tasks)) == 20
                assert wait(child) == 7
            await kms.close()
        asyncio.run(main())
    """
    run(WAIT + dedent(source), url)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(url: str, tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        dedent("""
        import multiprocessing, sys
        import mini_kms

        def work(url, number):
            with mini_kms.Kms.open(url, root_key=bytes(range(32))) as kms:
                alice = kms.session("alice", "admin")
                return alice.decrypt(alice.encrypt("users", b"secret").ciphertext).plaintext

        def use(handle):
            return None

        if __name__ == "__main__":
            with mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32))) as kms:
                kms.session("alice", "admin").create_key("users")
            context = multiprocessing.get_context(sys.argv[2])
            with context.Pool(3) as pool:
                results = pool.starmap_async(work, [(sys.argv[1], number) for number in range(6)]).get(60)
                assert results == [b"secret"] * 6, results
                with mini_kms.Kms.open(sys.argv[1], root_key=bytes(range(32))) as kms:
                    try:
                        pool.apply_async(use, (kms,)).get(60)
                    except TypeError as error:
                        assert "pickled" in str(error), error
                    else:
                        raise SystemExit("a handle went to another process")
            print("done")
        """)
    )
    runner = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    if method == "fork":
        assert run(runner, program, url, method) == "done\n"
        return
    # The other methods import the main program again, so it must be a file.
    assert run(EXECUTE, program, url, method) == "done\n"


def dedent(source: str) -> str:
    import textwrap

    return textwrap.dedent(source)
