package dev.pocketspec.models

import dev.pocketspec.bundle.Manifest
import dev.pocketspec.bundle.PocketspecException
import java.io.ByteArrayOutputStream

/** One field of a protobuf message: its whole encoding from [start], its content from [first], both up to [end]. */
class ProtoField(val number: Int, val start: Int, val first: Int, val end: Int) {
    /** The content as text. */
    fun text(data: ByteArray): String = String(data, first, end - first, Charsets.UTF_8)
}

/**
 * The fields of the protobuf message in [data] from [start] to [limit]; PocketspecException, with the file's [name], if
 * none lies there. A field is a key, `number shl 3 or kind`, and a value of variable length, of 4 or 8 bytes, or with
 * its length before it.
 */
class ProtoFields(private val data: ByteArray, private val start: Int, private val limit: Int, private val name: String) :
    Iterable<ProtoField> {
    override fun iterator(): Iterator<ProtoField> = object : Iterator<ProtoField> {
        private var place = start

        override fun hasNext(): Boolean = place < limit

        override fun next(): ProtoField {
            val begin = place
            val key = number()
            val size = when ((key and KIND).toInt()) {
                VARIABLE -> {
                    val first = place
                    number()
                    return ProtoField((key shr KIND_BITS).toInt(), begin, first, place)
                }
                BYTES -> number()
                EIGHT -> 8L
                FOUR -> 4L
                else -> fail()
            }
            if (size < 0 || size > limit - place) fail()
            val first = place
            place += size.toInt()
            return ProtoField((key shr KIND_BITS).toInt(), begin, first, place)
        }

        private fun number(): Long {
            var value = 0L
            var shift = 0
            while (place < limit && shift < Long.SIZE_BITS) {
                val byte = data[place++].toLong()
                value = value or ((byte and 127) shl shift)
                if (byte >= 0) return value
                shift += 7
            }
            fail()
        }
    }

    private fun fail(): Nothing =
        throw PocketspecException("$name is no ONNX graph, or is cut off; ${Manifest.EXPORT_AGAIN}.")

    companion object {
        private const val KIND = 7L
        private const val KIND_BITS = 3
        private const val VARIABLE = 0
        private const val EIGHT = 1
        private const val BYTES = 2
        private const val FOUR = 5

        /** Writes what stands before the content of a field that is a message of [size] bytes. */
        fun writeHead(out: ByteArrayOutputStream, number: Int, size: Int) {
            writeNumber(out, number shl KIND_BITS or BYTES)
            writeNumber(out, size)
        }

        private fun writeNumber(out: ByteArrayOutputStream, value: Int) {
            var rest = value
            while (rest > 127) {
                out.write(rest and 127 or 128)
                rest = rest shr 7
            }
            out.write(rest)
        }
    }
}
