package dev.pocketspec.plan

/**
 * What a plan is chosen for: the most bytes, the kind of kernels ("native" or "portable"), and what this [process] takes
 * without a model. [context] null: the longest that fits. [kvType]: of the target's cache, null to let the plan decide.
 */
data class PlanRequest(
    val budgetBytes: Long,
    val kernels: String,
    val process: ProcessBytes,
    val context: Int? = null,
    val kvType: String? = null,
)
