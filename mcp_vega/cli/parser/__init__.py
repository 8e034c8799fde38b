"""The command line.

commands  the commands and their options
usage     the parser: wrong usage is an error like any other
values    the values of options
"""
