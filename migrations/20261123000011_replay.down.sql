DROP INDEX _rejections_judged;
DROP INDEX _rejections_retry;
ALTER TABLE _rejections DROP COLUMN judged;
ALTER TABLE _rejections DROP COLUMN retry;
DROP TABLE _control;
