"""The open weights of Segmind-Vega and Segmind-VegaRT on this machine.

catalog  where they come from: repositories, revisions, license, and the files that one needs
cache    the user's Hugging Face cache: where the weights are in it, and how to remove them
header   the header of a safetensors file: what it holds, and whether it is complete
located  finds the weights and checks that they are complete and the right ones
"""
