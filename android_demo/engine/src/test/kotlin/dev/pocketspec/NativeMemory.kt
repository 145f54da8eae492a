package dev.pocketspec

import java.io.File
import java.lang.management.ManagementFactory
import javax.management.ObjectName

/** Native memory at its peak, in bytes: [anonymous] beyond what was there before, pages of [mapped] files, and all that the process had. */
internal data class NativePeak(val anonymous: Long, val mapped: Long, val process: Long)

/**
 * Measures the native memory that this process takes from when this object is made, and what it maps of the files in
 * [folder]: what a plan counts. The JVM's own is told apart, in a JVM that tracks it (`-XX:NativeMemoryTracking=summary`),
 * has touched its whole heap (`-Xms` as `-Xmx`, `-XX:+AlwaysPreTouch`), and compiles nothing meanwhile (`-Xint`).
 */
internal class NativeMemory(folder: File) {
    private val files = folder.canonicalPath + File.separator
    private val bare: Long

    init {
        // What is free would be used again, and not be seen. The JVM frees spare memory of its own every five seconds,
        // also what its first report takes.
        ownBytes()
        Thread.sleep(SPARE_MILLIS)
        command("systemTrimNativeHeap")
        bare = OwnMemory().process().anonymous - ownBytes()
    }

    /** The peak of [work], which ends as it should be measured: with all that it maps, in its dearest step. */
    fun peakOf(work: () -> Unit): NativePeak {
        File("/proc/self/clear_refs").writeText(RESET_PEAK)
        work()
        val most = File("/proc/self/status").readLines().first { it.startsWith("VmHWM:") }.filter { it in '0'..'9' }.toLong() * KIB
        return NativePeak(most - OwnMemory().process().files - ownBytes() - bare, mapped(), most)
    }

    /** Bytes that the JVM took for itself. Direct buffers are the arena: the JVM counts them, under "Other". */
    private fun ownBytes(): Long {
        val report = command("vmNativeMemory", "summary")
        fun committed(part: String) = Regex("$part.*committed=(\\d+)KB").find(report)?.let { it.groupValues[1].toLong() * KIB } ?: 0
        return committed("Total:") - committed("- +Other \\(")
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
        const val SPARE_MILLIS = 6_000L

        /** What the system is told to take the present size of the process as its largest from now on (`proc(5)`). */
        const val RESET_PEAK = "5"
        val ADDRESSES = Regex("^[0-9a-f]+-[0-9a-f]+ ")
    }
}
