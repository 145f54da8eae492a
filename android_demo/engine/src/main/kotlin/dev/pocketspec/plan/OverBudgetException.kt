package dev.pocketspec.plan

import dev.pocketspec.bundle.PocketspecException

/** Not even the leanest plan fits; [smallestBytes] is the least budget that would do. */
class OverBudgetException(message: String, val smallestBytes: Long) : PocketspecException(message)
