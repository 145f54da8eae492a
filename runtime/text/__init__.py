"""From text to token ids and back: tokenizers, chat templates, and the token history of a conversation.

``tokenizer`` and ``token_ids`` open the tokenizer of a bundle, ``chat_template`` renders messages (the ``template_*``
modules check and limit it), ``prompt`` encodes a prompt either way, ``token_history`` keeps a conversation in tokens.
Rooms above may import all of these.
"""
