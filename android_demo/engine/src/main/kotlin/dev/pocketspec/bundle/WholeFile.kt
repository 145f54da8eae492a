package dev.pocketspec.bundle

import java.io.File
import java.io.IOException

/** Writes files whole or not at all. */
object WholeFile {
    /** Writes all of [data] to [file], making its folder, or changes nothing; IOException if it cannot be written. */
    fun write(file: File, data: ByteArray) {
        file.parentFile?.mkdirs()
        val part = File(file.path + ".part")
        try {
            part.writeBytes(data)
            if (!part.renameTo(file)) throw IOException("cannot write $file")
        } finally {
            part.delete()
        }
    }
}
