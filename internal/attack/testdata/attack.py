# SPDX-License-Identifier: Apache-2.0
"""Makes one attempt to get out and prints how it went, as the attacker sees it.

attack.py MODULE FUNCTION ARG...: prints what the function returns, or the name
of the error that ended it."""
import errno, importlib, os, socket, ssl, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def name(e):
    if isinstance(e, (socket.timeout, BlockingIOError)):
        return "silence"
    if isinstance(e, ssl.SSLEOFError):
        return "closed"
    if isinstance(e, ssl.SSLError):
        return "TLS error"
    return errno.errorcode.get(e.errno, str(e))


if __name__ == "__main__":
    try:
        out = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])
    except OSError as e:
        out = name(e)
    print(out, flush=True)
