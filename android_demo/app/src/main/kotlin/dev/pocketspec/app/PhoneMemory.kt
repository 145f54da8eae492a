package dev.pocketspec.app

import android.app.ActivityManager
import android.content.Context
import dev.pocketspec.chat.DeviceMemory

/** What the system says of the device's memory. */
class PhoneMemory(context: Context) : DeviceMemory {
    private val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager

    override fun isLow(): Boolean = read().lowMemory

    /** What is allowed before the user has said anything: half of what is free beyond the system's threshold. */
    fun firstBudget(): Long {
        val memory = read()
        return maxOf((memory.availMem - memory.threshold) / 2, SMALLEST)
    }

    private fun read() = ActivityManager.MemoryInfo().also(manager::getMemoryInfo)

    private companion object {
        const val SMALLEST = 64L shl 20
    }
}
