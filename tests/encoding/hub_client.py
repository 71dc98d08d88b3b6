"""A user's program that downloads from a test server: each call is a process with a new home folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = "someone/splade"
FETCH = """
import json, sys
from splade_retriever.errors import ModelFilesError
from splade_retriever.encoding.hub import fetch
try:
    snapshot = fetch(**json.loads(sys.argv[1]))
    print(json.dumps({"folder": str(snapshot.folder), "revision": snapshot.revision}))
except ModelFilesError as error:
    print(json.dumps({"error": str(error)}))
"""


class Client:
    """Runs `fetch` in a new process, as a user's program would."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home, self.endpoint = home, endpoint

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith(("HF_", "HTTP", "XDG_"))
        }
        # A proxy of this machine must not be used for localhost.
        local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {**kept, **local, "HOME": str(self.home), "HF_ENDPOINT": self.endpoint, **more}

    def command(self, **arguments: object) -> list[str]:
        request = {"repo": REPO, "files": ["tokenizer.json", "model.onnx"], "model": "mine", **arguments}
        return [sys.executable, "-c", FETCH, json.dumps(request)]

    def fetch(self, *, env: dict[str, str] | None = None, **arguments: object) -> dict[str, str]:
        done = subprocess.run(
            self.command(**arguments),
            env=self.environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, str] = json.loads(done.stdout) | {"stderr": done.stderr}
        return answer
