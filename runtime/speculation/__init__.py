"""From a request to a strategy: ``request`` has what users ask for, ``speculator`` turns it into drafters, a scheduler
and an acceptance rule for the decoding loop."""
