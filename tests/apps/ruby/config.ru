VERSION = "one"

run lambda { |env|
  body = env["rack.input"].read
  query = env["QUERY_STRING"][/q=([^&]*)/, 1].to_s
  words = ["ruby", VERSION, Process.ppid, Process.uid, env["REQUEST_METHOD"], env["PATH_INFO"].sub("/", ""), query, "[#{body}]"]
  [200, { "Content-Type" => "text/plain" }, [words.join(" ")]]
}
