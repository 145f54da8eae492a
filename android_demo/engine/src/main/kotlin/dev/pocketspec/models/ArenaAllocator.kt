package dev.pocketspec.models

import dev.pocketspec.bundle.PocketspecException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Gives the memory of an arena's blocks: outside of the Java heap, zeroed, and aligned to [ALIGNMENT] bytes.
 *
 * On Android `ByteBuffer.allocateDirect` counts against the app's heap limit, so the app maps shared memory instead.
 */
interface ArenaAllocator {
    /** A buffer of exactly [bytes] bytes in native order; PocketspecException if the system has no memory for it. */
    fun allocate(bytes: Long): ByteBuffer

    /** Returns the memory of [buffer], which [allocate] gave, to the system; nothing may use it afterwards. */
    fun free(buffer: ByteBuffer)

    companion object {
        /** What the planner lays blocks out for. */
        const val ALIGNMENT = 64

        /** [bytes] as the size of one buffer. */
        fun size(bytes: Long): Int {
            if (bytes <= Int.MAX_VALUE - ALIGNMENT) return bytes.toInt()
            throw PocketspecException(
                "One block of the plan has $bytes bytes, and the limit is ${Int.MAX_VALUE}; choose a shorter context.",
            )
        }

        /** The part of [buffer] that begins at a multiple of [ALIGNMENT], [bytes] long, at [shift]. */
        internal fun slice(buffer: ByteBuffer, shift: Int, bytes: Int): ByteBuffer {
            val view = buffer.duplicate()
            view.limit(shift + bytes)
            view.position(shift)
            return view.slice().order(ByteOrder.nativeOrder())
        }
    }
}
