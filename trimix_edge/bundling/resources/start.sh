#!/bin/sh
# Starts the page, and opens it in a browser: sh start.sh [OPTIONS of trimix-edge serve]
# For other computers in the room, too: sh start.sh --host 0.0.0.0
# PORT=8090 sh start.sh uses another port than 8080.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
port=${PORT:-8080}
[ -x "$here/venv/bin/trimix-edge" ] \
    || { echo "start.sh: run install.sh first, and the start.sh that it installs" >&2; exit 1; }

# As soon as the models are loaded; without a screen there is nothing to open.
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    "$here/venv/bin/python" -I - "$port" $$ <<'END' &
import os, sys, time, urllib.request, webbrowser

page, server = f"http://127.0.0.1:{int(sys.argv[1])}", int(sys.argv[2])
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(600):
    time.sleep(1)
    try:
        os.kill(server, 0)
        direct.open(f"{page}/health", timeout=5).close()
    except ProcessLookupError:
        break
    except OSError:
        continue
    webbrowser.open(page)
    break
END
fi
exec "$here/venv/bin/trimix-edge" serve "$here/trio" --port "$port" "$@"
