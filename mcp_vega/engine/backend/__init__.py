"""Draws through a server that the user already runs, by the HTTP API of the Stable Diffusion web UI.

stable-diffusion.cpp, Automatic1111, Forge and SD.Next speak it. They differ in the names of samplers, in how a LoRA is
chosen, and in what they do with a name that they do not know.

painter   the painter
server    one such server: its requests, its answers, and its errors
samplers  the schedulers of the models by the names that such a server has
pictures  the pictures in its answers
"""
