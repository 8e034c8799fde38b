"""The pictures, in stores. Nothing else writes into their folders.

store           the interface of a store, and the file names of pictures
folder          a store that is a folder
bucket          a store that is a bucket of an object storage
object_storage  the requests to an object storage
memory          a store for pictures that could not be written to any disk
fallback        several stores as one: a picture that the first store cannot take goes into the next
atomic_write    writes a file completely or not at all
confinement     keeps folders and files below their root
disk            which replica's disk a folder is on
preview_cache   the small previews of kept pictures
"""
