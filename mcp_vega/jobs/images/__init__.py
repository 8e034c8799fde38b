"""The pictures of jobs, on their way to the gallery.

saver  saves pictures, with the recipe in each file
mover  moves pictures to the gallery that it could not keep before, when it works again
"""
