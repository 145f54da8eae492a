package dev.pocketspec.text

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import java.io.File
import java.io.IOException

/**
 * Reads `tokenizer.json`, the format of Hugging Face's tokenizers library.
 *
 * The vocabulary and the merges go into tables as they are read: as lists and maps they would take 100 MB for 150,000
 * tokens.
 */
object TokenizerFile {
    /** The largest tokenizers, with 260,000 entries, have 35 MB. */
    private const val MOST_BYTES = 128L shl 20

    /** The tokenizer in [file]; TokenizerException says what is wrong, or what in it this app does not know. */
    fun open(file: File): Tokenizer {
        if (!file.isFile) throw TokenizerException("no ${file.name} in ${file.parent}; export the bundle again")
        if (file.length() > MOST_BYTES) throw TokenizerException("${file.name} has more than $MOST_BYTES bytes; no tokenizer has so many")
        val text = try {
            Json.utf8(file.readBytes())
        } catch (error: JsonException) {
            throw TokenizerException("${file.name} ${error.message}; export the bundle again")
        } catch (error: IOException) {
            throw TokenizerException("${file.name} cannot be read (${error.message}); export the bundle again")
        }
        return read(text, file.name)
    }

    /** The tokenizer that [text] describes; [name] stands for it in messages. */
    fun read(text: String, name: String = "tokenizer.json"): Tokenizer {
        try {
            return TokenizerReader(text).read()
        } catch (error: JsonException) {
            throw TokenizerException("$name is not a tokenizer: ${error.message}; export the bundle again")
        } catch (error: PatternException) {
            throw TokenizerException("$name cannot be used: ${error.message}; take a model with another tokenizer")
        }
    }
}
