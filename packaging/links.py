"""Prints the install links of README.md: `python packaging/links.py`.

They contain the entry of claude_desktop_config.example.json, with the command `uvx mcp-vega`.
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
    """Print two links for each host. GitHub shows only https links, so the first one redirects to the second."""
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
    # Spaces fill it up to a multiple of 3 bytes. Then the base64 has no `=`, which hosts may escape differently.
    return f"name={name}&config={b64encode(text.encode() + b' ' * (-len(text) % 3)).decode()}"


def _vscode_link(name: str, server: dict[str, Any]) -> str:
    """A link with which VS Code asks for the key and keeps it as a secret."""
    asking = {**server["env"], KEY: f"${{input:{PROMPT['id']}}}"}
    text = json.dumps({"name": name, "inputs": [PROMPT], **server, "env": asking}, separators=(",", ":"))
    return f"vscode:mcp/install?{quote(text, safe='')}"


if __name__ == "__main__":
    main()
