package dev.pocketspec.json

/** Text that is not JSON, or JSON that does not hold what it should; the message is one sentence. */
class JsonException(message: String) : RuntimeException(message)
