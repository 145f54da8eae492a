package dev.pocketspec.models

import dev.pocketspec.TestPlaces
import dev.pocketspec.bundle.Bundle
import dev.pocketspec.plan.Plan
import dev.pocketspec.plan.PlanRequest
import dev.pocketspec.plan.PlanTable
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.plan.ProcessBytes
import org.junit.Assume.assumeTrue

/** The demo bundle with plans of trees of 15 nodes, and its levels, opened as planned. */
class DemoModels(kernels: String = Kernels.NATIVE) {
    val bundle: Bundle = Bundle.read(TestPlaces.demoBundle())
    val kernels = if (kernels == Kernels.NATIVE) Kernels(TestPlaces.kernels()) else Kernels.ofOnnxRuntime
    val arena = Arena(DirectAllocator())
    val levels = Levels(bundle, this.kernels, arena)

    /** The plan for [context] tokens that gives up nothing, with a KV cache of [kvType] (null: planned). */
    fun plan(context: Int, kvType: String? = null): Plan =
        table().choose(PlanRequest(Long.MAX_VALUE, kernels.name, ProcessBytes(0, 0), context, kvType))

    private fun table(): PlanTable {
        val key = PlanTableReader.keyOf(bundle.manifest.files)
        val text = TestPlaces.fixture("demo-plans.json").readText()
        assumeTrue("the fixtures are of another demo bundle", key in text)
        return PlanTableReader.read(text, key)
    }
}
