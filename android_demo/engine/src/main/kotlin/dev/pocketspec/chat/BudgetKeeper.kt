package dev.pocketspec.chat

/** What the system says of the device's memory; [isLow] is when it begins to end processes. */
fun interface DeviceMemory {
    fun isLow(): Boolean
}

/**
 * Decides the budget in force: what the user allows, or less while the device is short of memory.
 *
 * Under pressure the budget shrinks towards the smallest plan, by half of what is above it or all. It grows back one
 * level whenever [CALM_MILLISECONDS] have passed without pressure. Newer systems no longer tell running apps of
 * pressure, so [device] is asked, too, at most once a second. Any thread may call.
 */
class BudgetKeeper(private val device: DeviceMemory, private val milliseconds: () -> Long) {
    private var wanted = 0L
    private var level = 0
    private var changedAt = 0L
    private var askedAt = NEVER
    private var refused: Long? = null

    /** The user allows [bytes]. */
    @Synchronized
    fun want(bytes: Long) {
        wanted = bytes
        refused = null
    }

    /** What the user allows. */
    @Synchronized
    fun wanted(): Long = wanted

    /** The system's `onTrimMemory` with [trim], a level of `ComponentCallbacks2`. */
    @Synchronized
    fun trim(trim: Int) {
        val now = when (trim) {
            RUNNING_LOW, BACKGROUND -> HALF
            RUNNING_CRITICAL, MODERATE, COMPLETE -> SMALLEST
            else -> return // the screen was hidden, or memory is only beginning to be short
        }
        press(now)
    }

    /** Memory ran out. */
    @Synchronized
    fun ranOut() = press(SMALLEST)

    /** The budget that is to replace that of [plan] now; null if it is right, or would be refused once more. */
    fun due(plan: PlanView): Long? {
        val isLow = isTimeToAsk() && device.isLow() // without the lock, for which the screen's thread may wait
        return due(plan, isLow)
    }

    @Synchronized
    private fun due(plan: PlanView, isLow: Boolean): Long? {
        if (isLow) press(if (level == 0) HALF else SMALLEST)
        while (level > 0 && milliseconds() - changedAt >= CALM_MILLISECONDS) {
            level--
            changedAt += CALM_MILLISECONDS
        }
        val target = if (wanted <= plan.smallestBytes) wanted else shrunk(plan.smallestBytes)
        return target.takeIf { it != plan.budgetBytes && it != refused }
    }

    /** The engine refused [bytes], and [inForce] stays: where no shortage asked for them, it is what the user has. */
    @Synchronized
    fun refused(bytes: Long, inForce: Long) {
        refused = bytes
        if (level == 0) wanted = inForce
    }

    private fun shrunk(smallest: Long): Long = smallest + (wanted - smallest) * (SMALLEST - level) / SMALLEST

    @Synchronized
    private fun isTimeToAsk(): Boolean {
        val now = milliseconds()
        if (askedAt != NEVER && now - askedAt < ASK_MILLISECONDS) return false
        askedAt = now
        return true
    }

    private fun press(now: Int) {
        level = maxOf(level, now)
        changedAt = milliseconds()
        refused = null
    }

    companion object {
        const val CALM_MILLISECONDS = 30_000L
        private const val ASK_MILLISECONDS = 1_000L
        private const val NEVER = Long.MIN_VALUE
        private const val HALF = 1
        private const val SMALLEST = 2

        // Of android.content.ComponentCallbacks2, which the desktop's JVM does not have.
        const val RUNNING_LOW = 10
        const val RUNNING_CRITICAL = 15
        const val BACKGROUND = 40
        const val MODERATE = 60
        const val COMPLETE = 80
    }
}
