"""The MCP hosts: where each keeps its servers, and how an entry for this server is added and removed.

command      `mcp-vega install` and `uninstall`
hosts        the hosts: their files, the form of their entries
found        which hosts are on this machine
asking       what is asked at the terminal: the hosts, the key or token, the consent
entry        an entry that starts a program: a command that lasts, its arguments, the API key
remote       an entry with a URL: the address and the access token, and whether the server takes them
change       what an installation changes in a file, and what it leaves unchanged
shown        a change as a person sees it, without secrets
switches     whether a server is switched off
config_file  a host's file: read, backed up, written completely or not at all
jsonc        JSON with comments, changed in one place
toml         TOML, changed in one place
"""

# These names are here so that the command line needs no other import.
NAMES = ("claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "codex", "gemini", "zed")
