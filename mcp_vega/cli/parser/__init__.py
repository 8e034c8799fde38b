"""The command line.

apis      the commands that serve an API in place of Segmind's, and the weights
commands  the commands and their options
usage     the parser: wrong usage is an error like any other
values    the values of options
"""
