package dev.pocketspec

import dev.pocketspec.chat.MemoryReading
import dev.pocketspec.models.ArenaAllocator
import dev.pocketspec.models.DirectAllocator
import dev.pocketspec.plan.ProcessBytes
import java.io.File

/**
 * What an engine needs of the device: where its memory comes from, the [library] of native operators (null: ONNX
 * Runtime's own run everything), what this process takes, and how many threads may work. [context] null: the longest
 * that fits the budget.
 */
class EngineParts(
    val allocator: ArenaAllocator = DirectAllocator(),
    val library: File? = null,
    val memory: OwnMemory = OwnMemory(),
    val cores: Int = Runtime.getRuntime().availableProcessors(),
    val context: Int? = null,
)

/** Reads what this process takes; [status] is the system's file about it, which Linux and Android have. */
open class OwnMemory(private val status: File = File("/proc/self/status")) {
    /** Anonymous bytes, shared memory among them, and bytes of mapped files. */
    open fun process(): ProcessBytes {
        val rows = if (status.canRead()) status.readLines() else emptyList()
        return ProcessBytes(bytes(rows, "RssAnon:") + bytes(rows, "RssShmem:"), bytes(rows, "RssFile:"))
    }

    /** Native memory and the Java heap, as far as they can be told apart from inside. */
    open fun reading(): MemoryReading {
        val heap = Runtime.getRuntime().totalMemory()
        val process = process()
        return MemoryReading(maxOf(process.anonymous + process.files - heap, 0), heap)
    }

    private fun bytes(rows: List<String>, name: String): Long {
        val row = rows.firstOrNull { it.startsWith(name) } ?: return 0
        return (row.filter { it in '0'..'9' }.toLongOrNull() ?: 0) * KIB
    }

    private companion object {
        const val KIB = 1024
    }
}
