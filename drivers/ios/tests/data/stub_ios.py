"""Stands in for go-ios where Apple's developer services would be needed: replays output, and notes how it was called.

What it does is chosen by files in the folder STUB_IOS: NAME.txt is replayed by the command NAME, `hang` makes runtest
wait for ever, `fail` makes every command of a device fail as go-ios fails without a developer image.
"""

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

HOME = Path(os.environ["STUB_IOS"])
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def options() -> dict[str, str]:
    return dict(each.removeprefix("--").split("=", 1) for each in sys.argv[2:] if "=" in each)


class Tunnels(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path.startswith(("/health", "/tunnel/")) else 404)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


def main() -> int:
    command = sys.argv[1]
    if command == "version":
        print(json.dumps({"version": "1.2.0"}))
        return 0
    with (HOME / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]}) + "\n")
    if command == "tunnel" and (HOME / "no_tunnel").exists():
        return 1
    if command == "tunnel":
        http.server.HTTPServer(("127.0.0.1", int(options()["tunnel-info-port"])), Tunnels).serve_forever()
    if (HOME / "fail").exists():
        error = "the Developer Disk Image must be mounted - run `ios image auto`"
        if command == "runtest":  # the real one tells of it, prints no results, and ends with success
            print("[]")
            print(json.dumps({"level": "INFO", "msg": "Failed running Xcuitest", "error": error}), file=sys.stderr)
            return 0
        print(json.dumps({"level": "ERROR", "msg": f"{command} failed", "err": error}), file=sys.stderr)
        return 1
    if command == "screenshot":
        Path(options()["output"]).write_bytes(PNG)
    if command == "runtest":
        folder = os.environ["TMPDIR"]
        (Path(folder) / "5a8f").write_bytes(PNG)
        print((HOME / "runtest.txt").read_text().replace("@TMPDIR@", folder), end="", flush=True)
        if (HOME / "hang").exists():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        return int((HOME / "status").read_text()) if (HOME / "status").exists() else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
