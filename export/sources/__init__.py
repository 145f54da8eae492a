"""Where models come from: known names, checkpoints of the Hub or a folder, random weights, enlarged models.

``targets.resolve`` finds a model by name, and ``opened`` describes it and opens its weights as a ``TensorSource``.
``config_names`` and ``model_shape`` read configurations, ``vocabulary`` and ``compact_tokenizer`` tokenizers, and
``streamed_model`` runs the reference. Rooms above may import these modules; how a checkpoint is downloaded and read
(``hub``, ``checkpoint``, ``checkpoint_mapping``) is for this room alone.
"""
