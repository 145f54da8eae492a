"""Files of a bundle: weights in one pass over the checkpoint, configurations for others, and the folder it grows in.

``weights`` streams tensors into ``model.onnx`` and its data file, ``genai_config`` describes a level to
onnxruntime-genai, ``workspace`` holds a bundle until it is complete, and ``lock`` lets one export at a time write to a
place. Rooms above may import these four; ``data_file`` is for ``weights`` alone.
"""
