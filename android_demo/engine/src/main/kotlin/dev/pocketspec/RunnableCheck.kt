package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleCheck
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.plan.PlanTableReader

/** Refuses a bundle that this engine could not open, before it is kept: all but its graphs and the budget is read. */
object RunnableCheck : BundleCheck {
    override fun check(bundle: Bundle) {
        for (level in bundle.manifest.levels) {
            for (graph in level.graphs.values) requireListed(bundle, level.path(graph))
        }
        requireListed(bundle, "tokenizer.json")
        PlanTableReader.read(bundle)
        EngineText.open(bundle)
    }

    private fun requireListed(bundle: Bundle, name: String) {
        if (name in bundle.manifest.files) return
        throw PocketspecException("The bundle's manifest does not list $name; export it again and import it once more.")
    }
}
