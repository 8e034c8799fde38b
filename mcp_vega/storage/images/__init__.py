"""The folder of the pictures. Nothing else writes into it.

folder        the pictures' names and places, and the spare folders where a disk is full
atomic_write  files that are whole on the disk or not there at all
confinement   folders and files that stay below their root
"""
