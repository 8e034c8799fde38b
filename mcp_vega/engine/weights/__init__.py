"""The open weights of Segmind-Vega and Segmind-VegaRT on this machine.

catalog   where they come from: repositories, revisions, license, and the files that one needs
cache     the user's Hugging Face cache: where the weights are in it
header    the header of a safetensors file: what it holds, and whether it is complete
located   finds the weights and checks that they are complete and the right ones
hub       lists and reads the files of a repository over HTTP
download  fetches files from the hub into the cache; continues what was interrupted
removal   deletes the weights from the cache
"""
