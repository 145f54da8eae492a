package dev.pocketspec.models

import dev.pocketspec.bundle.PocketspecException
import java.nio.ByteBuffer
import java.util.IdentityHashMap

/** Blocks as direct buffers of a desktop JVM, which are returned at once and not by the garbage collector. */
class DirectAllocator : ArenaAllocator {
    private val whole = IdentityHashMap<ByteBuffer, ByteBuffer>()

    @Synchronized
    override fun allocate(bytes: Long): ByteBuffer {
        val size = ArenaAllocator.size(bytes)
        val buffer = try {
            ByteBuffer.allocateDirect(size + ArenaAllocator.ALIGNMENT)
        } catch (error: OutOfMemoryError) {
            throw PocketspecException("There is no memory for $size bytes of the plan; choose a smaller budget.", error)
        }
        val shift = (ArenaAllocator.ALIGNMENT - ALIGNED_BY.invoke(buffer, 0, ArenaAllocator.ALIGNMENT) as Int) % ArenaAllocator.ALIGNMENT
        return ArenaAllocator.slice(buffer, shift, size).also { whole[it] = buffer }
    }

    @Synchronized
    override fun free(buffer: ByteBuffer) {
        CLEAN.invoke(UNSAFE, checkNotNull(whole.remove(buffer)) { "not a buffer of this allocator" })
    }

    private companion object {
        /** How far an index is from the alignment below it; since Java 9. */
        val ALIGNED_BY = ByteBuffer::class.java.getMethod("alignmentOffset", Int::class.java, Int::class.java)
        val UNSAFE_CLASS: Class<*> = Class.forName("sun.misc.Unsafe")
        val UNSAFE: Any? = UNSAFE_CLASS.getDeclaredField("theUnsafe").apply { isAccessible = true }.get(null)
        val CLEAN = UNSAFE_CLASS.getMethod("invokeCleaner", ByteBuffer::class.java)
    }
}
