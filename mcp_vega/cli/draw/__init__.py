"""`mcp-vega draw`: draws pictures from the command line, by the same tools as an agent.

command    runs the command
arguments  the calls to make: what was asked for, checked
prompts    the prompts of a file or of stdin
output     the files that -o asks for: checked before anything is paid, written when a picture is there
calls      makes the calls, a few at the same time
outcome    how a call ended
report     what a person or a program learns about each call
screen     the terminal: its size, and how it shows pictures
"""
