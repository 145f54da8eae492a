"""What clients may ask, as pydantic models: they check requests, and the OpenAPI document shows them.

Numbers, texts and lists are taken for what they are, never converted. A parameter of OpenAI's that is not supported is
declared with the values that ask for nothing (``n: 1``), or in ``unsupported``; any other value is refused by name.
"""
