"""Weights in the forms that kernels read: the layout in bytes, packing, and packed files that are found or made.

``layout`` specifies the packed layout and ``packing_table`` the file that describes it; ``packing`` packs, ``packed``
and ``prepacked`` find or make the files for native and portable kernels. ``content`` and ``verification`` find damage,
``readahead`` loads pages. ``export`` imports ``layout``, ``packing`` and ``packing_table``; the runtime all of them.
"""
