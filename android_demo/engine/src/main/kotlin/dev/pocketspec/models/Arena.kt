package dev.pocketspec.models

import dev.pocketspec.plan.Block
import java.io.Closeable
import java.nio.ByteBuffer

/** The memory of all open levels: block by block as the plan lays it out, and nothing beside it. */
class Arena(private val allocator: ArenaAllocator) {
    /** Bytes that are held now. */
    @Volatile
    var bytes = 0L
        private set

    /** Takes the memory of [layout]. */
    @Synchronized
    fun take(layout: Block): ArenaBlock {
        val memory = allocator.allocate(layout.bytes)
        bytes += memory.capacity()
        return ArenaBlock(layout, memory, ::give)
    }

    @Synchronized
    private fun give(memory: ByteBuffer) {
        bytes -= memory.capacity()
        allocator.free(memory)
    }
}

/** One block of an arena: the [layout] of its buffers, and their memory. */
class ArenaBlock(val layout: Block, private val memory: ByteBuffer, private val give: (ByteBuffer) -> Unit) : Closeable {
    private var isOpen = true

    /** The first [bytes] bytes, all by default, of array [index] of buffer [name]: a view in native order. */
    fun view(name: String, index: Int = 0, bytes: Int = layout.buffers.getValue(name).bytes): ByteBuffer {
        val buffer = layout.buffers.getValue(name)
        require(index in 0 until buffer.count && bytes in 0..buffer.bytes) { "$index, $bytes of $name" }
        return ArenaAllocator.slice(memory, buffer.offset + index * buffer.stride, bytes)
    }

    /** Returns the memory; no view of it may be used afterwards. */
    override fun close() {
        if (isOpen) give(memory)
        isOpen = false
    }
}
