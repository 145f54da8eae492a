package dev.pocketspec

import java.io.File
import java.lang.management.ManagementFactory
import javax.management.ObjectName

/**
 * The native memory that this process has taken since this object was made, and what it has mapped of the files in
 * [folder]: what a plan counts. The JVM's own is told apart, if it tracks it (`-XX:NativeMemoryTracking=summary`) and has
 * touched its whole heap (`-Xms` as `-Xmx`, `-XX:+AlwaysPreTouch`).
 */
internal class NativeMemory(folder: File) {
    private val files = folder.canonicalPath + File.separator
    private val bare = anonymous()

    /** Bytes. */
    fun taken(): Long = anonymous() - bare + mapped()

    /** Without what the JVM has of its own, and what the C library keeps of what was freed. */
    private fun anonymous(): Long {
        command("systemTrimNativeHeap")
        val report = command("vmNativeMemory", "summary")
        fun committed(part: String) = Regex("$part.*committed=(\\d+)KB").find(report)?.let { it.groupValues[1].toLong() * KIB } ?: 0
        // Direct buffers are the arena: the JVM counts them, under "Other".
        return OwnMemory().process().anonymous - committed("Total:") + committed("- +Other \\(")
    }

    private fun command(name: String, vararg words: String): String {
        val commands = ObjectName("com.sun.management:type=DiagnosticCommand")
        val signature = arrayOf(Array<String>::class.java.name)
        return ManagementFactory.getPlatformMBeanServer().invoke(commands, name, arrayOf<Any>(words), signature) as String
    }

    private fun mapped(): Long {
        var isOurs = false
        var bytes = 0L
        File("/proc/self/smaps").forEachLine { line ->
            if (ADDRESSES.containsMatchIn(line)) isOurs = files in line
            if (isOurs && line.startsWith("Rss:")) bytes += line.filter { it in '0'..'9' }.toLong() * KIB
        }
        return bytes
    }

    private companion object {
        const val KIB = 1024
        val ADDRESSES = Regex("^[0-9a-f]+-[0-9a-f]+ ")
    }
}
