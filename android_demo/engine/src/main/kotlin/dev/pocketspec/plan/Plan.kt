package dev.pocketspec.plan

/** What a process takes without a model: anonymous bytes, and bytes of libraries that stay in memory. */
data class ProcessBytes(val anonymous: Long, val files: Long)

/** Anonymous bytes of one part of a plan, and its bytes of mapped files that steps read. */
data class Part(val name: String, val anonymous: Long, val hot: Long) {
    val bytes: Long get() = anonymous + hot
}

/** [count] arrays of [bytes] bytes each, the first at [offset] of a block, the next [stride] bytes on. */
data class Buffer(val name: String, val offset: Int, val bytes: Int, val count: Int, val stride: Int)

/** A block of memory of the arena, and the [buffers] in it by name. */
class Block(val name: String, val bytes: Long, val buffers: Map<String, Buffer>)

/**
 * One level as it will be opened. The KV cache has [capacity] rows; a forward of a draft, a tree if [tree], has at most
 * [maxRows] rows and gives the logits of [logitsRows] of them. At most [threads] threads run it. [cache] lives as long as
 * the level, [work] may be laid out anew between two steps.
 */
class LevelPlan(
    val name: String,
    val role: String,
    val residence: String,
    val kvType: String,
    val capacity: Int,
    val maxRows: Int,
    val tree: Boolean,
    val logitsRows: Int,
    val threads: Int,
    val parts: List<Part>,
    val cache: Block,
    val work: Block,
) {
    /** Whether the native operators run it. */
    val isNative: Boolean get() = residence == NATIVE

    /** Bytes of its two blocks. */
    val arenaBytes: Long get() = cache.bytes + work.bytes

    companion object {
        const val NATIVE = "native"
    }
}

/** What was given up before this plan was reached, from what to what, with the bytes that it saved and the reason. */
data class GivenUp(val step: String, val change: String, val savedBytes: Long, val reason: String)

/** The largest draft: [nodes] nodes, as a tree if [tree]; with 0 nodes decoding is plain. */
data class DraftPlan(val tree: Boolean, val nodes: Int)

/**
 * Every size that the engine uses, chosen from the table of the bundle; nothing is opened that is not in it.
 *
 * [process] is the process without a model, [shared] what all levels share. [tokensPerSecond] is predicted for the
 * machine on which the planner's costs were measured.
 */
class Plan(
    val context: Int,
    val kernels: String,
    val budgetBytes: Long,
    val draft: DraftPlan,
    val prefillChunk: Int,
    val levels: List<LevelPlan>,
    val shared: List<Part>,
    val process: ProcessBytes,
    val neededBytes: Long,
    val marginBytes: Long,
    val smallestBytes: Long,
    val tokensPerSecond: Double,
    val givenUp: List<GivenUp>,
) {
    /** The level whose output is reproduced exactly. */
    val target: LevelPlan get() = levels[0]

    /** Bytes of all blocks of all levels. */
    val arenaBytes: Long get() = levels.sumOf { it.arenaBytes }

    /** The level called [name]; null if it is not opened. */
    fun level(name: String): LevelPlan? = levels.firstOrNull { it.name == name }

    /**
     * Bytes beyond the process's own that are outside of the Java heap once everything is open and has run: anonymous
     * ones, and pages of mapped weights. Text, sampling and the suffix index are on the Java heap. What is called objects
     * is what the C library's heap loses to fragmentation.
     */
    fun nativeBytes(): Part {
        val parts = levels.flatMap { it.parts } + shared.filter { it.name !in ON_JAVA_HEAP }
        return Part("native", parts.sumOf { it.anonymous }, parts.sumOf { it.hot })
    }

    /** Every part with its bytes, and the margin: they add up to [neededBytes]. */
    fun parts(): List<Part> {
        val own = listOf(Part("this app", process.anonymous, process.files))
        val ofLevels = levels.flatMap { level -> level.parts.map { it.copy(name = "${level.name}: ${it.name}") } }
        val listed = own + ofLevels + shared
        // While a bundle is loaded more may be in use than afterwards.
        val loading = neededBytes - marginBytes - listed.sumOf { it.bytes }
        val peak = if (loading > 0) listOf(Part("while loading", loading, 0)) else emptyList()
        return listed + peak + Part("margin", marginBytes, 0)
    }

    companion object {
        val ON_JAVA_HEAP = setOf("tokenizer", "tokens", "sampling", "suffix index")
    }
}
