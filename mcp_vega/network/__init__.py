"""Ports and addresses, for every program of this package that serves or calls one.

addresses  which hosts are this machine, and how a URL names a host
serving    serves an application on a port inside a program that runs already
"""
