"""A collector of traces over OTLP/HTTP, for tests: decodes what it is sent with OpenTelemetry's own messages.

collector.py FOLDER [CERTIFICATE KEY]: prints its port; writes each span as a JSON line to FOLDER/spans and the requests
as they are to FOLDER/bodies. Answers with the status that FOLDER/status holds, if it is there.
"""

import http.server
import json
import pathlib
import ssl
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

FOLDER = pathlib.Path(sys.argv[1])


def value(any_value):
    """A value of an attribute."""
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    """Attributes by name; a name that stands there twice is a fault."""
    found = {pair.key: value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), pairs
    return found


def spans(export):
    """The spans of an export."""
    for of_resource in export.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                assert span.end_time_unix_nano >= span.start_time_unix_nano
                yield {
                    "name": span.name,
                    "kind": span.kind,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "state": span.trace_state,
                    "status": span.status.code,
                    "events": len(span.events),
                    "attributes": attributes(span.attributes),
                    "resource": attributes(of_resource.resource.attributes),
                    "scope": of_scope.scope.name,
                }


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes exports."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """An export."""
        body = self.rfile.read(int(self.headers["content-length"]))
        status = FOLDER / "status"
        code = int(status.read_text()) if status.exists() else 200
        if code == 200:
            assert self.path == "/v1/traces", self.path
            assert self.headers["content-type"] == "application/x-protobuf"
            headers = {name.lower(): text for name, text in self.headers.items()}
            found = [span | {"headers": headers} for span in spans(ExportTraceServiceRequest.FromString(body))]
            with open(FOLDER / "bodies", "ab") as bodies:
                bodies.write(body)
            with open(FOLDER / "spans", "a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(span) + "\n" for span in found)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(code)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Nothing."""


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
