"""The pictures, in stores. Nothing else writes into their folders.

store         what a store can do, and what pictures are called
folder        a store that is a folder
memory        a store for what no disk would take
fallback      several stores as one: what the first will not take goes into the next
atomic_write  files that are whole on the disk or not there at all
confinement   folders and files that stay below their root
"""
