import java.io.IOException;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.experimental.categories.Categories.CategoryFilter;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;
import org.junit.runner.manipulation.Filter;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/**
 * Runs JUnit classes and writes a line for each test as it ends: outcome, class, method, milliseconds, message.
 *
 * Arguments: the report, "quick", "slow" or "all", the category of slow tests, then the classes.
 */
public final class TestRunner extends RunListener {
    private final PrintStream report;
    private final Map<String, Failure> troubles = new HashMap<>();
    private long started;

    private TestRunner(PrintStream report) {
        this.report = report;
    }

    public static void main(String[] arguments) throws IOException, ClassNotFoundException {
        List<Class<?>> classes = new ArrayList<>();
        for (int i = 3; i < arguments.length; i++) classes.add(Class.forName(arguments[i]));
        Request request = Request.classes(classes.toArray(new Class<?>[0]));
        Class<?> slow = Class.forName(arguments[2]);
        if (!arguments[1].equals("all")) {
            boolean quick = arguments[1].equals("quick");
            Filter filter = quick ? CategoryFilter.exclude(slow) : CategoryFilter.include(slow);
            request = request.filterWith(filter);
        }
        try (PrintStream report = new PrintStream(arguments[0], "UTF-8")) {
            JUnitCore core = new JUnitCore();
            core.addListener(new TestRunner(report));
            Result result = core.run(request);
            report.println("end\t" + result.getRunCount());
        }
        System.exit(0);
    }

    @Override
    public void testStarted(Description test) {
        started = System.nanoTime();
    }

    @Override
    public void testFailure(Failure failure) {
        troubles.put("failed", failure);
        if (failure.getDescription().isSuite()) testFinished(failure.getDescription());
    }

    @Override
    public void testAssumptionFailure(Failure failure) {
        troubles.put("skipped", failure);
        if (failure.getDescription().isSuite()) testFinished(failure.getDescription());
    }

    @Override
    public void testIgnored(Description test) {
        line("skipped", test, 0, "ignored");
    }

    @Override
    public void testFinished(Description test) {
        long milliseconds = test.isSuite() ? 0 : (System.nanoTime() - started) / 1000000;
        if (troubles.containsKey("failed")) line("failed", test, milliseconds, troubles.get("failed").getTrace());
        else if (troubles.containsKey("skipped")) line("skipped", test, milliseconds, message(troubles.get("skipped")));
        else line("passed", test, milliseconds, "");
        troubles.clear();
    }

    private static String message(Failure failure) {
        return failure.getMessage() == null ? "an assumption does not hold" : failure.getMessage();
    }

    private void line(String outcome, Description test, long milliseconds, String message) {
        String escaped = message.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "").replace("\t", "    ");
        String method = test.getMethodName() == null ? "class" : test.getMethodName();
        report.println(outcome + "\t" + test.getClassName() + "\t" + method + "\t" + milliseconds + "\t" + escaped);
        report.flush();
    }
}
