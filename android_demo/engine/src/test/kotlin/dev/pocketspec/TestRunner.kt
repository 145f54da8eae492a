package dev.pocketspec

import org.junit.experimental.categories.Categories.CategoryFilter
import org.junit.runner.Description
import org.junit.runner.JUnitCore
import org.junit.runner.Request
import org.junit.runner.notification.Failure
import org.junit.runner.notification.RunListener
import java.io.PrintStream
import kotlin.system.exitProcess

/** Writes a line to [report] for each test as it ends: outcome, class, method, milliseconds, message. */
class TestRunner(private val report: PrintStream) : RunListener() {
    private var failed: Failure? = null
    private var skipped: Failure? = null
    private var started = 0L

    override fun testStarted(test: Description) {
        started = System.nanoTime()
    }

    override fun testFailure(failure: Failure) {
        failed = failure
        if (failure.description.isSuite) testFinished(failure.description)
    }

    override fun testAssumptionFailure(failure: Failure) {
        skipped = failure
        if (failure.description.isSuite) testFinished(failure.description)
    }

    override fun testIgnored(test: Description) = line("skipped", test, 0, "ignored")

    override fun testFinished(test: Description) {
        val milliseconds = if (test.isSuite) 0 else (System.nanoTime() - started) / 1_000_000
        val (failure, assumption) = failed to skipped
        when {
            failure != null -> line("failed", test, milliseconds, failure.trace)
            assumption != null -> line("skipped", test, milliseconds, assumption.message ?: "an assumption does not hold")
            else -> line("passed", test, milliseconds, "")
        }
        failed = null
        skipped = null
    }

    private fun line(outcome: String, test: Description, milliseconds: Long, message: String) {
        val escaped = message.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "").replace("\t", "    ")
        report.println("$outcome\t${test.className}\t${test.methodName ?: "class"}\t$milliseconds\t$escaped")
        report.flush()
    }
}

/** Runs JUnit classes. Arguments: the report, "quick", "slow" or "all", the category of slow tests, then the classes. */
fun main(arguments: Array<String>) {
    val (place, selection, category) = arguments
    val slow = Class.forName(category)
    val all = Request.classes(*arguments.drop(3).map { Class.forName(it) }.toTypedArray())
    val request = when (selection) {
        "quick" -> all.filterWith(CategoryFilter.exclude(slow))
        "slow" -> all.filterWith(CategoryFilter.include(slow))
        else -> all
    }
    PrintStream(place, "UTF-8").use { report ->
        val core = JUnitCore()
        core.addListener(TestRunner(report))
        report.println("end\t${core.run(request).runCount}")
    }
    exitProcess(0)
}
