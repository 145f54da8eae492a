package dev.pocketspec

import dev.pocketspec.plan.ProcessBytes
import java.lang.management.ManagementFactory
import javax.management.ObjectName

/**
 * What this process takes beside the JVM's own memory, in a JVM that tracks it (`-XX:NativeMemoryTracking=summary`) and
 * has touched its whole heap (`-Xms` as `-Xmx`, `-XX:+AlwaysPreTouch`).
 */
internal class NativeMemory(private val memory: OwnMemory = OwnMemory()) {
    private val bare = beside(memory.process())

    /** Bytes beyond those when this object was made. */
    fun grown(): Long = beside(memory.process()) - bare

    /** Direct buffers are the arena: the JVM counts them, under "Other", and so does the plan. */
    private fun beside(process: ProcessBytes): Long {
        val name = ObjectName("com.sun.management:type=DiagnosticCommand")
        val signature = arrayOf(Array<String>::class.java.name)
        val server = ManagementFactory.getPlatformMBeanServer()
        val report = server.invoke(name, "vmNativeMemory", arrayOf<Any>(arrayOf("summary")), signature) as String
        fun committed(part: String) = Regex("$part.*committed=(\\d+)KB").find(report)?.let { it.groupValues[1].toLong() * KIB } ?: 0
        return process.anonymous + process.files - committed("Total:") + committed("- +Other \\(")
    }

    private companion object {
        const val KIB = 1024
    }
}
