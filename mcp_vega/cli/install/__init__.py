"""The MCP hosts: where each keeps its servers, and how an entry for this one gets in and out again.

command      `mcp-vega install` and `uninstall`
hosts        the hosts: their files, the shape of their entries
entry        what is written for a host: a command that lasts, its arguments, the key
change       what an installation changes in a file, and what it leaves
switches     whether a server is switched off
config_file  a host's file: read, backed up, written whole or not at all
jsonc        JSON with comments, changed in one place
toml         TOML, changed in one place
"""

# Here, so that the command line can name them without importing more.
NAMES = ("claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "codex", "gemini", "zed")
