"""Works on the bytes of pictures, without network or disk.

formats    JPEG, PNG and WebP: recognises a format by its first bytes, and checks that a picture is complete
parts      the segments and chunks of a picture's file, and which of them its pixels need
preview    measures a picture, makes it smaller, or converts it to another format
sheet      makes a contact sheet of several pictures, each with its number
processor  does all this off the event loop, one picture at a time
metadata   writes the recipe into a picture's own file, and reads it
memory     limits the memory that freed pictures keep occupied
"""
