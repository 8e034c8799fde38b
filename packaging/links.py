"""Prints the install links of README.md: `python packaging/links.py`.

They carry claude_desktop_config.example.json, with `uvx mcp-vega` in the place of a clone's command.
"""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

EXAMPLE = Path(__file__).resolve().parent.parent / "claude_desktop_config.example.json"
KEY = "SEGMIND_API_KEY"
PROMPT = {"type": "promptString", "id": "segmind-api-key", "description": "Segmind API key", "password": True}


def main() -> None:
    """Print each host with its links: one that GitHub shows, and the one that this leads to."""
    ((name, example),) = json.loads(EXAMPLE.read_text(encoding="utf-8"))["mcpServers"].items()
    server = {"command": "uvx", "args": ["mcp-vega", *example.get("args", [])], "env": example["env"]}
    query = _cursor_query(name, server)
    print("Cursor", f"https://cursor.com/en/install-mcp?{query}")
    print("Cursor", f"cursor://anysphere.cursor-deeplink/mcp/install?{query}")
    direct = _vscode_link(name, server)
    print("VS Code", f"https://insiders.vscode.dev/redirect?url={quote(direct, safe='')}")
    print("VS Code", direct)


def _cursor_query(name: str, server: dict[str, Any]) -> str:
    text = json.dumps(server, separators=(",", ":"))
    # With spaces to a multiple of three the base64 ends without `=`, so that nobody has to agree on its escape.
    return f"name={name}&config={b64encode(text.encode() + b' ' * (-len(text) % 3)).decode()}"


def _vscode_link(name: str, server: dict[str, Any]) -> str:
    """A link that has VS Code ask for the key and keep it as a secret."""
    asking = {**server["env"], KEY: f"${{input:{PROMPT['id']}}}"}
    text = json.dumps({"name": name, "inputs": [PROMPT], **server, "env": asking}, separators=(",", ":"))
    return f"vscode:mcp/install?{quote(text, safe='')}"


if __name__ == "__main__":
    main()
