package dev.pocketspec.app

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.models.ArenaAllocator
import java.lang.reflect.InvocationTargetException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.IdentityHashMap

/**
 * Blocks in shared memory (`android.os.SharedMemory`, since API 27), whose pages are aligned and zeroed and do not count
 * against the limit of the Java heap, as those of `ByteBuffer.allocateDirect` do on Android.
 *
 * By reflection, because the app is compiled against API 23 where there is no SDK.
 */
class SharedMemoryAllocator : ArenaAllocator {
    private val mapped = IdentityHashMap<ByteBuffer, ByteBuffer>()

    @Synchronized
    override fun allocate(bytes: Long): ByteBuffer {
        val size = ArenaAllocator.size(bytes)
        val buffer = try {
            map(maxOf(size, 1))
        } catch (error: InvocationTargetException) {
            val cause = error.cause ?: error
            throw PocketspecException("There is no memory for $size bytes of the plan (${cause.message}); allow less.", error)
        }
        val view = buffer.duplicate().order(ByteOrder.nativeOrder())
        view.limit(size)
        return view.also { mapped[it] = buffer }
    }

    @Synchronized
    override fun free(buffer: ByteBuffer) {
        UNMAP.invoke(null, checkNotNull(mapped.remove(buffer)) { "not a buffer of this allocator" })
    }

    /** Memory that stays as long as its mapping: the descriptor is closed at once. */
    private fun map(size: Int): ByteBuffer {
        val memory = CREATE.invoke(null, "pocketspec-arena", size)
        try {
            return MAP.invoke(memory) as ByteBuffer
        } finally {
            CLOSE.invoke(memory)
        }
    }

    private companion object {
        val MEMORY: Class<*> = Class.forName("android.os.SharedMemory")
        val CREATE = MEMORY.getMethod("create", String::class.java, Int::class.javaPrimitiveType)
        val MAP = MEMORY.getMethod("mapReadWrite")
        val UNMAP = MEMORY.getMethod("unmap", ByteBuffer::class.java)
        val CLOSE = MEMORY.getMethod("close")
    }
}
