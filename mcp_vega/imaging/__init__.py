"""Works on the bytes of pictures, without network or disk.

formats    JPEG, PNG and WebP: recognises a format by its first bytes
integrity  checks that a picture is complete, and finds out its size, without decoding it
parts      the segments and chunks of a picture's file, and which of them its pixels need
preview    makes a picture smaller, or converts it to another format
sheet      makes a contact sheet of several pictures, each with its number
processor  makes previews and sheets off the event loop, as many at the same time as there are cores
terminal   makes a picture as a terminal shows it
metadata   writes the recipe into a picture's own file, and reads it
memory     limits the memory that freed pictures keep occupied
"""
