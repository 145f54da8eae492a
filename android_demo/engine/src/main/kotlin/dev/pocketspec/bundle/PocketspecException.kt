package dev.pocketspec.bundle

/**
 * An error that the user can put right. The message is one sentence for the screen: what, where, the limit, the remedy.
 *
 * Every expected failure of the engine is one of these; anything else that is thrown is a fault of the program.
 */
open class PocketspecException(override val message: String, cause: Throwable? = null) : Exception(message, cause)
