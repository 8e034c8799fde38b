"""Bytes of pictures, without any network or disk.

formats    JPEG, PNG and WebP, told by their first bytes, and whether a picture is all there
parts      what a picture's file is made of, and what its pixels need of it
preview    how large a picture is, and the picture in another form: smaller, or in another format
sheet      several pictures as one, each with its number
processor  the same off the event loop, one picture at a time
metadata   the recipe in a picture's own file
"""
