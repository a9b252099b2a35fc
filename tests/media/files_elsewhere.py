"""A server of files, as another homeserver would be one, by HTTPS on a port of localhost.

Arguments: the directory of its certificate and key, and the port. Ends with its standard input.
"""

import http.server
import json
import os
import ssl
import sys
import threading
import time

DIRECTORY, PORT = sys.argv[1], int(sys.argv[2])
HERE = f"https://localhost:{PORT}"
MEDIA = "/_matrix/federation/v1/media/download/"
REDIRECTS = {
    "moved": f"{HERE}/again",
    "moved-in-clear": f"http://localhost:{PORT}/files/moved",
    "moved-away": "https://files.invalid/files/moved",
}
REFUSALS = {"promised": (504, "M_NOT_YET_UPLOADED"), "huge": (413, "M_TOO_LARGE")}
slow_requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        name = path.removeprefix(MEDIA)
        if path == "/again":
            self.answer(307, {"Location": "/files/moved?signature=a%20b"}, b"")
        elif path == "/files/moved":
            # Whoever gives out files of others is not told who asks.
            is_private = "Authorization" not in self.headers and self.path.endswith("?signature=a%20b")
            headers = {"Content-Type": "text/plain", "Content-Disposition": 'inline; filename="a;b.txt"'}
            self.answer(200 if is_private else 400, headers, b"moved")
        elif name in REFUSALS:
            status, errcode = REFUSALS[name]
            self.answer(status, {}, json.dumps({"errcode": errcode, "error": "no"}).encode())
        elif name in REDIRECTS:
            self.parts(f"Location: {REDIRECTS[name]}\r\n", b"")
        elif name == "slow":
            global slow_requests
            slow_requests += 1
            self.parts("", b"request ", b"%d" % slow_requests)
        else:
            self.answer(404, {}, b'{"errcode":"M_NOT_FOUND","error":"no"}')

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def parts(self, headers, *pieces):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/mixed; boundary=b")
        self.end_headers()
        self.wfile.write(b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n" + headers.encode() + b"\r\n")
        for number, piece in enumerate(pieces):
            if number > 0:
                time.sleep(3)
            self.wfile.write(piece)
            self.wfile.flush()
        self.wfile.write(b"\r\n--b--\r\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(DIRECTORY, "certificate.pem"), os.path.join(DIRECTORY, "key.pem"))
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
